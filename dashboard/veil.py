"""The veil over a page whose server is gone. The browser's own clock judges, so it does not matter who died or why."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import streamlit.components.v2 as components_v2

VEIL_AFTER_S = 4.0  # without a tick; four of them, and a second is left to be seen within 5 s

# One watch a browser page, whatever becomes of the elements: it must outlive the connection that brought it. It believes
# whichever clock saw more time pass: one may stand while the machine sleeps, the other may be set.
_WATCH = """
function start(limit_ms) {
  const veil = document.createElement('div');
  veil.id = 'homeostat-veil';
  veil.setAttribute('role', 'alert');
  veil.hidden = true;
  veil.innerHTML = '<div><strong></strong><p></p><p>This page comes back by itself.</p></div>';
  document.body.appendChild(veil);
  const watch = {token: null, at: performance.now(), date: Date.now()};
  watch.look = () => {
    const silent = Math.max(performance.now() - watch.at, Date.now() - watch.date);
    const gone = silent > limit_ms;
    if (gone) {
      const since = new Date(watch.date).toTimeString().slice(0, 8);
      veil.querySelector('strong').textContent = 'NO CONNECTION SINCE ' + since;
      veil.querySelector('p').textContent = 'Everything under this veil is old, by ' + Math.floor(silent / 1000) + ' s.';
    }
    if (veil.hidden === gone) {
      veil.hidden = !gone;
      document.documentElement.classList.toggle('homeostat-gone', gone);
      document.getElementById('root')?.toggleAttribute('inert', gone);
    }
  };
  setInterval(watch.look, 250);
  document.addEventListener('visibilitychange', watch.look);
  return watch;
}
export default function({data}) {
  const watch = window.homeostatWatch ??= start(data.limit_ms);
  if (data.token === watch.token) return;
  Object.assign(watch, {token: data.token, at: performance.now(), date: Date.now()});
  watch.look();
}
"""

_ticks = itertools.count()


def pulse() -> None:
    """Tell the browser that a whole page was sent just now. Without this for `VEIL_AFTER_S` it covers the page, and says
    since when; the next one uncovers it."""
    _component()(key="pulse", data={"token": next(_ticks), "limit_ms": 1000 * VEIL_AFTER_S})


@cache  # registering it again would make every instance start over
def _component() -> Callable[..., Any]:
    return components_v2.component("homeostat_pulse", html="<i></i>", js=_WATCH)
