"""A piece of the page that is patched in place: nodes stay, only texts and attributes that differ are written.

`st.html` replaces its whole content at every change; tooltips close, selections and animations start over. Here the
browser compares the new markup with the old. The markup must come from `dashboard.faceplates`, which escapes every string.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import streamlit.components.v2 as components_v2

from dashboard.style import LIVE_CSS

# Streamlit gives each instance its own parentElement; `onclick` is set anew because setTriggerValue belongs to one run.
_PATCH = """
function patch(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) return old.replaceWith(fresh);
  if (old.nodeType === Node.TEXT_NODE) { if (old.data !== fresh.data) old.data = fresh.data; return; }
  for (const {name} of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const {name, value} of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  children(old, fresh);
}
function children(old, fresh) {
  const kids = [...fresh.childNodes];
  while (old.childNodes.length > kids.length) old.lastChild.remove();
  kids.forEach((kid, i) => i < old.childNodes.length ? patch(old.childNodes[i], kid) : old.appendChild(kid));
}
export default function({data, parentElement, setTriggerValue}) {
  const root = parentElement.querySelector('.hs');
  const fresh = document.createElement('template');
  fresh.innerHTML = data.html;
  children(root, fresh.content);
  if (data.height_as) document.documentElement.style.setProperty(data.height_as, root.getBoundingClientRect().height + 'px');
  root.onclick = (event) => {
    const button = event.target.closest('button[data-key]');
    if (button) setTriggerValue('clicked', button.dataset.key);
  };
}
"""


def live_html(html: str, key: str, height_as: str = "") -> str | None:
    """Show `html` at this place, patched over what stood here. Returns the `data-key` of a button just clicked.

    `height_as`: a CSS variable of the page that is to hold the height this takes.
    """
    shown: Any = _component()(key=key, data={"html": html, "height_as": height_as}, on_clicked_change=_nothing)
    return shown.clicked


@cache  # registering it again would make every instance start over
def _component() -> Callable[..., Any]:
    return components_v2.component("homeostat_live_html", html='<div class="hs"></div>', css=LIVE_CSS, js=_PATCH)


def _nothing() -> None:
    pass
