"""How the page looks. Colours are named once for the light and once for the dark."""

STYLE = """
:root { color-scheme: light dark;
  --paper: #ffffff; --ink: #1b1f24; --soft: #59636e; --rule: #d1d9e0; --card: #f6f8fa;
  --good: #1a7f37; --bad: #cf222e;
  --c0: #0969da; --c1: #bc4c00; --c2: #1a7f37; --c3: #8250df; --c4: #bf3989; --c5: #57606a; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #0d1117; --ink: #e6edf3; --soft: #9198a1; --rule: #30363d; --card: #151b23;
  --good: #3fb950; --bad: #f85149;
  --c0: #58a6ff; --c1: #f0883e; --c2: #3fb950; --c3: #bc8cff; --c4: #f778ba; --c5: #9198a1; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
header { position: sticky; top: 0; padding: .7rem 1.5rem; background: var(--paper);
  border-bottom: 1px solid var(--rule); z-index: 1; }
h1 { margin: 0 0 .2rem; font-size: 1.15rem; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; }
a { color: var(--c0); text-decoration: none; }
a:hover { text-decoration: underline; }
main { max-width: 1080px; margin: 0 auto; padding: 0 1.5rem 3rem; }
section { padding-top: 1.4rem; scroll-margin-top: 4.5rem; }
h2 { margin: 0 0 .7rem; font-size: 1.05rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(400px, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; padding: .7rem; background: var(--card); border: 1px solid var(--rule);
  border-radius: 6px; min-width: 0; }
figcaption { font-size: .85rem; color: var(--soft); overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; }
.chart text { font-size: 14px; }
svg text { fill: var(--soft); font-variant-numeric: tabular-nums; }
svg .value { text-anchor: end; } svg .tick { text-anchor: middle; }
.intervals { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .8rem; align-items: center;
  margin: .5rem .4rem; font-size: .8rem; }
.intervals .name { text-align: right; }
.track { position: relative; height: 1.15rem; border-right: 1px solid var(--rule);
  background: linear-gradient(to right, var(--rule) 1px, transparent 1px) 0 0 / 25% 100%; }
.track i { position: absolute; top: 50%; background: var(--c0); }
.track .span { height: 2px; margin-top: -1px; }
.track .point { width: 7px; height: 7px; margin: -3.5px 0 0 -3.5px; border-radius: 50%; }
.ticks { grid-column: -2; position: relative; height: 1.2rem; color: var(--soft); }
.ticks span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.ticks span:first-child { transform: none; } .ticks span:last-child { transform: translateX(-100%); }
.grid { stroke: var(--rule); stroke-width: 1; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.restart { stroke: var(--bad); stroke-dasharray: 5 4; } .rewind { stroke: var(--c3); stroke-dasharray: 1.5 3; }
.line-0 { stroke: var(--c0); } .line-1 { stroke: var(--c1); } .line-2 { stroke: var(--c2); }
.line-3 { stroke: var(--c3); } .line-4 { stroke: var(--c4); } .line-5 { stroke: var(--c5); }
.dot-0 { fill: var(--c0); } .dot-1 { fill: var(--c1); } .dot-2 { fill: var(--c2); }
.dot-3 { fill: var(--c3); } .dot-4 { fill: var(--c4); } .dot-5 { fill: var(--c5); }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; font-size: .8rem; }
.key-0 { color: var(--c0); } .key-1 { color: var(--c1); } .key-2 { color: var(--c2); }
.key-3 { color: var(--c3); } .key-4 { color: var(--c4); } .key-5 { color: var(--c5); }
.wide { margin-bottom: 1rem; overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
.wide table { width: 100%; margin-top: .6rem; } .wide td { overflow-wrap: normal; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid var(--rule);
  overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 600; }
.note, .absent { margin: .3rem 0 .6rem; font-size: .85rem; color: var(--soft); }
.absent { font-style: italic; }
.good { color: var(--good); } .bad { color: var(--bad); }
.tiles { display: flex; flex-wrap: wrap; gap: .6rem; }
.tiles figure { padding: .35rem; }
img { display: block; image-rendering: pixelated; }
.filter img { width: 56px; } .photo { width: 118px; } .photo img { width: 104px; }
.map { width: min(100%, 520px); }
@media (max-width: 700px) {
  header { position: static; padding: .7rem 1rem; } main { padding: 0 1rem 2rem; }
  section { scroll-margin-top: 0; } .figures > figure { padding: .5rem; }
  .intervals { grid-template-columns: 1fr; } .intervals .name { text-align: left; }
  .wide table { font-size: .75rem; } .wide th, .wide td { padding-right: .45rem; white-space: nowrap; } }
"""
