"""How the pages look: one column, on paper, on a phone, in the dark."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #16181b; --grey: #565b61; --pale: #dcdfe2; --wash: #f5f6f7;
  --blue: #0072b2; --orange: #b84e00; --green: #007a5a; --pink: #a84f82; --amber: #9c6f00; --sky: #2b87bd;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --ink: #e9ebed; --grey: #a6acb3; --pale: #363b41; --wash: #1e2125;
    --blue: #5cb3e8; --orange: #f5925a; --green: #3cc59c; --pink: #e09cc2; --amber: #edb53c; --sky: #86cbf2;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; max-width: 62rem; padding: 2.5rem 1.25rem 4rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; max-width: 42rem; text-wrap: balance; }
h2 { font-size: 1.15rem; line-height: 1.3; margin: 0 0 .6rem; }
p, ul { margin: .6rem 0; max-width: 44rem; }
ul { padding-left: 1.1rem; }
li { margin: .2rem 0; }
h1, h2, p, li, td, th, figcaption { overflow-wrap: break-word; }
section, details { margin-top: 2.6rem; }
details + details { margin-top: 1rem; }
summary { cursor: pointer; font-weight: 600; }
a { color: var(--blue); }
.quiet, figcaption { color: var(--grey); font-size: .875rem; line-height: 1.5; }
.answer { font-size: 1.05rem; }
.alarm { color: var(--orange); }
.scroll { overflow-x: auto; margin: .9rem 0; }
table { border-collapse: collapse; font-size: .925rem; line-height: 1.35; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .8rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--pale); }
thead th { vertical-align: bottom; font-weight: 600; border-bottom: 1.5px solid var(--grey); }
th:first-child { padding-left: 0; }
tbody th { font-weight: 400; }
.number { text-align: right; white-space: nowrap; }
td { max-width: 34rem; }
.better > * { color: var(--blue); }
.worse > * { color: var(--orange); }
.failed > td { color: var(--orange); }
.better th, .worse th, .baseline th { font-weight: 600; }
figure { margin: 1.2rem 0 0; }
figcaption { margin-top: .5rem; max-width: 44rem; }
svg { display: block; width: 100%; height: auto; fill: var(--ink); }
.panels { display: grid; gap: 1rem 1.5rem; }
.narrow { display: none; }
pre {
  background: var(--wash); padding: .8rem 1rem; border-radius: 4px; overflow-x: auto;
  font: .85rem/1.6 ui-monospace, "SF Mono", Menlo, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere;
}
@media (max-width: 40rem) {
  body { padding: 1.5rem 1rem 3rem; }
  h1 { font-size: 1.4rem; }
  th, td { padding: .4rem .45rem; }
  table { font-size: .875rem; }
  .wide { display: none; }
  .narrow { display: grid; }
}
@media print {
  :root {
    color-scheme: light;
    --paper: #ffffff; --ink: #000000; --grey: #444444; --pale: #cccccc; --wash: #ffffff;
    --blue: #0072b2; --orange: #b84e00; --green: #007a5a; --pink: #a84f82; --amber: #9c6f00; --sky: #2b87bd;
  }
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  section, figure, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
  .scroll { overflow: visible; }
  details { display: none; }
}
"""
