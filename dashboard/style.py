"""Colours and CSS of the operator page, after ISA-101: greys for the normal, colour only for what needs a person."""

from __future__ import annotations

PAGE = "#d3d6d9"
PANEL = "#e3e5e7"
WELL = "#c4c8cc"  # what a bar moves in
BAND = "#eef0f1"  # the normal band of a bar or trend
ZONE = "#b9cbbd"  # where a CV costs nothing
LINE = "#a9afb5"
MUTED = "#59616a"
INK = "#23282d"
LIVE = "#1f3f66"  # measured now
PLAN = "#6f7f93"  # expected
AMBER, RED, YELLOW, VIOLET = "#e08a00", "#c4161c", "#e3c400", "#8b4aa8"

OLD = f"repeating-linear-gradient(135deg, {LINE} 0 2px, {WELL} 2px 6px)"  # hatched: not of the present

SEVERITIES: dict[str, tuple[str, str]] = {
    "critical": ("1", RED),
    "high": ("2", AMBER),
    "medium": ("3", YELLOW),
    "low": ("4", VIOLET),
}
"""Alarm priority -> (number, colour): told by number and shape as well as by colour."""

FONT = "'Source Sans','Source Sans 3','Segoe UI',Arial,sans-serif"

PAGE_CSS = f"""
<style>
  .stApp {{background:{PAGE}; color:{INK}}}
  [data-testid=stHeader], [data-testid=stToolbar], [data-testid=stDecoration],
  [data-testid=stStatusWidget], [data-testid=stElementToolbar] {{display:none !important}}
  .stMainBlockContainer {{padding:8px 12px 6px !important; max-width:none !important}}
  [data-testid=stVerticalBlock] {{gap:8px}}
  [data-testid=stHorizontalBlock] {{gap:8px}}
  /* a tick must not fade what it is about to replace */
  [data-stale=true], .stElementContainer {{opacity:1 !important; transition:none !important}}
  [data-testid=stSkeleton] {{display:none}}
  /* what the watch in the browser covers a page with whose ticks stay away */
  #homeostat-veil {{position:fixed; inset:0; z-index:2147483647; display:flex; align-items:flex-start; justify-content:center; padding-top:22vh;
    background:repeating-linear-gradient(135deg, rgba(120,126,132,.6) 0 14px, rgba(165,171,177,.6) 14px 28px); backdrop-filter:grayscale(1) contrast(.6); font-family:{FONT}; color:{INK}}}
  #homeostat-veil[hidden] {{display:none}}
  #homeostat-veil > div {{background:#fff; border:3px solid {RED}; padding:18px 34px 16px; text-align:center; max-width:92vw}}
  #homeostat-veil strong {{display:block; font-size:clamp(24px, 4vw, 44px); font-weight:700; color:{RED}; white-space:nowrap}}
  #homeostat-veil p {{margin:6px 0 0; font-size:18px}}
  [data-testid=stDialog] {{display:none !important}} /* Streamlit's own word for the same, with a cross to dismiss it */
  .st-key-pulse {{display:none}}
  .st-key-trends, .st-key-controls {{background:{PANEL}; border:1px solid {LINE}; padding:6px 10px 8px}}
  .st-key-trends {{gap:0}}
  /* the chart takes what the window leaves under the header, and never less than is readable */
  .st-key-trend, .st-key-trend :has(.stEChartsChart), .st-key-trend .stEChartsChart {{height:max(440px, calc(100vh - var(--header, 56px) - 66px)) !important}}
  .st-key-controls {{gap:6px}}
  .st-key-controls label p, .st-key-controls .stCaption p {{font-size:12px !important; color:{MUTED}; margin:0}}
  .st-key-controls input {{font-size:14px; padding:3px 8px}}
  .st-key-controls [data-baseweb=input], .st-key-controls [data-baseweb=select] > div {{min-height:30px}}
  .st-key-controls .stButton button {{min-height:40px; padding:2px 10px; font-size:13px}}
  .st-key-controls button {{font-size:13px}}
  .st-key-controls button[role=tab] {{min-height:26px; padding:0 2px}}
  .st-key-controls [data-testid=stTabs] [role=tablist] {{gap:14px}}
  .st-key-controls [data-testid=stVerticalBlock] {{gap:6px}}
  @media (max-width:1300px) {{.st-key-mode button {{padding:2px 3px !important; font-size:11px !important; min-width:0 !important}}}}
</style>
"""

LIVE_CSS = f"""
.hs {{font:13px/1.25 {FONT}; color:{INK}; font-variant-numeric:tabular-nums; box-sizing:border-box}}
.hs * {{box-sizing:border-box}}
.hs .muted {{color:{MUTED}}}
.hs .panel {{background:{PANEL}; border:1px solid {LINE}; padding:8px 10px; margin-bottom:8px}}
.hs .panel:last-child {{margin-bottom:0}}
.hs h2 {{font-size:11px; font-weight:600; letter-spacing:.06em; text-transform:uppercase; color:{MUTED}; margin:0 0 6px; padding:0;
        display:flex; justify-content:space-between}}
.hs h2 small {{font-size:11px; letter-spacing:0; text-transform:none; font-weight:400}}

.hs .strip {{display:flex; flex-wrap:wrap; background:{PANEL}; border:1px solid {LINE}; min-height:54px; overflow:hidden}}
.hs .strip > div {{padding:6px 12px 5px; box-shadow:1px 0 {LINE}, 0 1px {LINE}; white-space:nowrap; flex:0 1 auto; min-width:0}}
.hs .strip > div:last-child {{text-align:right; margin-left:auto}}
.hs .strip b {{display:block; font-size:18px; font-weight:600; line-height:24px; overflow:hidden; text-overflow:ellipsis}}
.hs .strip span {{display:block; font-size:11px; color:{MUTED}; overflow:hidden; text-overflow:ellipsis}}
.hs .strip > .name {{flex:1 2 120px; max-width:300px}}
.hs .strip > .mode {{flex:0 0 auto}} .hs .strip > .mode b {{font-size:26px; font-weight:700; overflow:visible}}
@media (max-width:1300px) {{.hs .strip > .spare {{display:none}}}}
.hs .amber {{background:{AMBER}; color:#000}} .hs .red {{background:{RED}; color:#fff}}
.hs .strip .amber span, .hs .amber .muted {{color:#000}} .hs .strip .red span, .hs .red .muted {{color:#fff}}

.hs .notice {{border:1px solid {LINE}; border-left:6px solid {MUTED}; background:{BAND}; padding:7px 12px; margin-top:8px}}
.hs h2 b.amber {{padding:0 5px}}
.hs .notice.bad {{border-color:{AMBER}; border-left-color:{AMBER}}}
.hs .notice.shed {{border:2px solid {RED}; border-left-width:12px; padding:9px 14px; font-size:14px}}
.hs .notice.shed strong {{display:block; font-size:18px; color:{RED}}}
.hs .notice p {{margin:2px 0 0}}
.hs .notice.says {{padding:4px 12px 5px}} .hs .notice.says p {{margin:0}} .hs .notice.says b {{color:{MUTED}; font-weight:600; margin-right:6px}}

.hs .plate {{padding:6px 0 7px; border-top:1px solid {LINE}}}
.hs .plate:first-of-type {{border-top:0; padding-top:0}}
.hs .plate .head {{display:flex; align-items:baseline; gap:6px}}
.hs .plate .head b {{font-size:13px; font-weight:600}}
.hs .plate .role {{font-size:10px; color:{MUTED}; border:1px solid {LINE}; padding:0 3px; align-self:center}}
.hs .plate .value {{margin-left:auto; font-size:19px; font-weight:600; color:{LIVE}; line-height:20px}}
.hs .plate .unit {{font-size:12px; color:{MUTED}; min-width:34px}}
.hs .plate .note {{display:flex; justify-content:space-between; gap:8px; font-size:11px; color:{MUTED}; line-height:14px}}
.hs .plate .note span:first-child {{overflow:hidden; text-overflow:ellipsis; white-space:nowrap}}
.hs .plate .note span:last-child {{white-space:nowrap}}
.hs .plate .value.old {{color:{MUTED}; font-weight:400; padding:0 5px; background:{OLD}}}
.hs .plate .status {{font-size:10px; font-weight:600; border:1px solid {MUTED}; padding:0 3px; align-self:center; white-space:nowrap}}
.hs .plate .value.amber, .hs .plate .value.red {{padding:0 5px}}
.hs .bar {{position:relative; height:12px; background:{WELL}; margin:4px 0 5px; border:1px solid {LINE}}}
.hs .bar i {{position:absolute; top:0; bottom:0; display:block; transition:left .25s linear}}
.hs .bar .band {{background:{BAND}}}
.hs .bar .zone {{background:{ZONE}; border:solid {PLAN}; border-width:0 2px; top:2px; bottom:2px}}
.hs .bar .zone.open-low {{border-left-width:0}} .hs .bar .zone.open-high {{border-right-width:0}}
.hs .bar .limit {{width:2px; margin-left:-1px; background:{INK}; top:-2px; bottom:-2px}}
.hs .bar .target {{width:0; height:0; top:7px; bottom:auto; margin-left:-6px; border:6px solid transparent; border-top:0; border-bottom:7px solid {INK}}}
.hs .bar .now {{width:6px; margin-left:-3px; background:{LIVE}; top:-3px; bottom:-3px}}
.hs .bar .now.amber {{background:{AMBER}}} .hs .bar .now.red {{background:{RED}}} .hs .bar .now.old {{background:{MUTED}; opacity:.5}}
.hs .bar .expected {{width:6px; margin-left:-3px; top:1px; bottom:1px; background:{BAND}; border:1.5px solid {PLAN}}}
.hs .bar .allowance {{background:repeating-linear-gradient(135deg,{LINE} 0 3px,{WELL} 3px 6px)}}
.hs .bar .allowance.amber {{background:{AMBER}}} .hs .bar .allowance.red {{background:{RED}}}
.hs .plate .limits {{margin-left:auto; white-space:nowrap}} .hs .plate .role {{white-space:nowrap}}
.hs .figures {{display:flex; justify-content:space-between; font-size:12px}}
.hs .figures b {{font-weight:600; color:{LIVE}}} .hs .figures b.amber, .hs .figures b.red {{padding:0 4px}}
.hs .figures b.amber {{color:#000}} .hs .figures b.red {{color:#fff}}

.hs table {{width:100%; border-collapse:collapse; font-size:12px; line-height:15px}}
.hs th {{text-align:left; font-weight:400; color:{MUTED}; font-size:11px; padding:0 6px 3px 0}}
.hs td {{padding:4px 6px 4px 0; border-top:1px solid {LINE}; vertical-align:top; overflow-wrap:anywhere}}
.hs td.time {{white-space:nowrap; color:{MUTED}}} .hs td.end, .hs th.end {{text-align:right; padding-right:0; white-space:nowrap}}
.hs td.who {{color:{MUTED}; white-space:nowrap; overflow-wrap:normal}}
.hs .scroll {{overflow-y:auto; max-height:170px; scrollbar-width:thin}}
.hs .scroll.rest {{max-height:max(150px, calc(100vh - var(--header, 56px) - 500px))}}
@media (min-width:1800px) {{.hs {{zoom:1.14}} .hs .scroll.rest {{max-height:max(150px, calc((100vh - var(--header, 56px) - 530px) / 1.14))}}}}
.hs .mark {{display:inline-block; width:17px; height:17px; line-height:17px; text-align:center; font-weight:700; font-size:12px; color:#000}}
.hs .mark.s1 {{background:{RED}; color:#fff}} .hs .mark.s2 {{background:{AMBER}; border-radius:9px}}
.hs .mark.s3 {{background:{YELLOW}; clip-path:polygon(50% 0,100% 100%,0 100%); line-height:21px; font-size:11px}}
.hs .mark.s4 {{background:{VIOLET}; color:#fff; border-radius:4px}} .hs .mark.s0 {{border:1px solid {MUTED}}}
.hs .mark.seen {{opacity:.55}} .hs .mark.new {{animation:hs-new 1s steps(2,jump-none) infinite}}
.hs tr.gone td {{color:{MUTED}}}
@keyframes hs-new {{from {{opacity:1}} to {{opacity:.35}}}}
.hs button {{font:12px {FONT}; padding:1px 8px; border:1px solid {MUTED}; background:{BAND}; color:{INK}; cursor:pointer}}
.hs button:hover {{background:#fff}} .hs button:focus-visible {{outline:2px solid {LIVE}}}
.hs .quiet {{color:{MUTED}; padding:2px 0}}
"""
