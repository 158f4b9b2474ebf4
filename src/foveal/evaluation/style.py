"""How a report looks: one sheet for light, dark and paper, with nothing to fetch."""

SHEET = """
:root {
  color-scheme: light dark;
  --paper: #fcfcfa; --card: #ffffff; --ink: #1d1d1f; --quiet: #66666c; --line: #e2e1dc;
  --hue: #0a6c6d; --soft: #0a6c6d38; --wrong: #a5391c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #141416; --card: #1b1b1e; --ink: #ececee; --quiet: #a0a0a8; --line: #2e2e33;
    --hue: #62c9c1; --soft: #62c9c140; --wrong: #f2957c;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 4rem 1.5rem 3rem; max-width: 66rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; text-wrap: pretty;
}
h1 { margin: 0 0 .6rem; font-size: 2.1rem; line-height: 1.15; letter-spacing: -.02em; text-wrap: balance; }
h2 { margin: 3.6rem 0 1rem; font-size: 1.2rem; letter-spacing: -.01em; }
p { margin: 0 0 1rem; max-width: 44rem; }
.quiet, figcaption, caption, th, .truth { color: var(--quiet); }
.lede { font-size: 1.1rem; color: var(--quiet); }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }

.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: 1.5rem; margin: 2.4rem 0 0;
  border-top: 1px solid var(--line); padding-top: 1.3rem; }
.figures div { display: flex; flex-direction: column-reverse; justify-content: flex-end; }
.figures dt { color: var(--quiet); font-size: .9rem; line-height: 1.4; }
.figures dd { margin: 0; font-size: 2.5rem; line-height: 1.2; letter-spacing: -.03em; }
.figures .ours dd { color: var(--hue); font-weight: 600; }

svg.curve { display: block; width: 100%; height: auto; }
svg text { fill: var(--quiet); font: 12px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
svg .grid, svg .border { stroke: var(--line); fill: none; }
svg .border { stroke: var(--quiet); stroke-dasharray: 2 4; }
svg .raw { stroke: var(--soft); fill: none; stroke-width: 1; }
svg .mean { stroke: var(--hue); fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
svg text.stage { fill: var(--ink); font-weight: 600; }

.wide { overflow-x: auto; }
.whole { white-space: nowrap; }
table { width: 100%; border-collapse: collapse; }
caption { text-align: left; font-size: .9rem; padding-bottom: .8rem; }
th, td { padding: .42rem 1.1rem .42rem 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { font-weight: 500; font-size: .85rem; }
th:first-child, td.draw { text-align: left; }
tbody th { color: var(--ink); font-size: 1rem; }
td.draw { width: 34%; min-width: 11rem; }
td small { color: var(--quiet); font-size: .8rem; }
tr.sum th, tr.sum td { font-weight: 600; }
tr.last th, tr.last td { border-bottom: 2px solid var(--quiet); }
svg.scale { display: block; width: 100%; height: 22px; overflow: visible; }
svg .track { stroke: var(--line); }
svg .fill { fill: var(--soft); }
svg .whisker { stroke: var(--hue); stroke-width: 3; }
svg .mark { stroke: var(--ink); stroke-width: 1.5; }
svg .mark.text_only { stroke-dasharray: 3 2; }
svg.key { display: inline-block; width: 1.5em; height: 22px; vertical-align: -6px; margin: 0 .15em 0 .7em; }

.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1.4rem; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; overflow: hidden;
  break-inside: avoid; }
figure img { display: block; width: 100%; height: 15rem; object-fit: contain; background: var(--line); }
figcaption ol { list-style: none; margin: 0; padding: .4rem .9rem .8rem; font-size: .9rem; line-height: 1.4; }
figcaption li { padding-top: .55rem; }
.reply { display: flex; flex-wrap: wrap; column-gap: .45em; color: var(--ink); }
.reply .answer { font-weight: 600; overflow-wrap: break-word; min-width: 0; }
.reply .truth { margin-left: auto; padding-left: .6rem; }
.right .sign { color: var(--hue); }
.wrong .sign, .wrong .answer { color: var(--wrong); }

dl.made { display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1.6rem; margin: 0; }
dl.made dt { color: var(--quiet); }
dl.made dd { margin: 0; overflow-wrap: anywhere; }
footer { margin-top: 3.6rem; padding-top: 1.2rem; border-top: 1px solid var(--line); font-size: .85rem; }
a { color: inherit; }

@media (max-width: 34rem) {
  body { padding-top: 2rem; } h1 { font-size: 1.6rem; } dl.made { grid-template-columns: 1fr; gap: 0; }
  dl.made dd { margin-bottom: .7rem; }
}
@media print {
  :root { --paper: #fff; --card: #fff; --ink: #000; --quiet: #555; --line: #ddd; --hue: #0a6c6d; --soft: #0a6c6d38;
    --wrong: #a5391c; }
  @page { margin: 16mm; }
  body { padding: 0; max-width: none; font-size: 10.5pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  h2 { break-after: avoid; margin-top: 1.6rem; } tr, .figures, dl.made { break-inside: avoid; }
  .figures { grid-template-columns: repeat(4, 1fr); } .figures dd { font-size: 2rem; }
  .wide { overflow: visible; font-size: 9pt; } th, td { padding-right: .7rem; } tbody th { font-size: 9pt; }
  td.draw { width: 26%; min-width: 6rem; } section:has(table) { break-inside: avoid; }
  .gallery { grid-template-columns: repeat(3, 1fr); gap: .8rem; } figure img { height: 9.5rem; }
  figcaption ol { font-size: 8.5pt; } footer { margin-top: 1.2rem; }
}
"""

COMPARED = """
body { max-width: 80rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .5rem; }
h3 .truth { font-weight: 400; padding-left: .6rem; }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--hue); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
table.texts td { text-align: left; white-space: normal; }
table.sorts caption { white-space: normal; }
table.heats td { padding: 0; text-align: center; }
.heat { display: block; padding: .42rem .5rem;
  background: color-mix(in srgb, var(--hue) calc(.6 * var(--heat)), transparent); }
figure.chart { background: none; border: 0; margin: 1.6rem 0; overflow: visible; }
figure.chart figcaption { margin-bottom: .4rem; font-size: .9rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 1.2rem; }
.legend { max-width: none; font-size: .9rem; }
svg .front { stroke: var(--quiet); stroke-dasharray: 5 4; fill: none; }
svg .bar { stroke-width: 1.5; opacity: .55; fill: none; }
svg .form.open { fill: var(--paper); stroke-width: 2; }
.hue0, .hue4 { stroke: #0a7d7e; fill: #0a7d7e; } .hue1, .hue5 { stroke: #c2571a; fill: #c2571a; }
.hue2, .hue6 { stroke: #6a55c2; fill: #6a55c2; } .hue3, .hue7 { stroke: #9a7b00; fill: #9a7b00; }
.answers { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .8rem; }
.answers figcaption { padding: .5rem .7rem; font-size: .9rem; color: var(--ink); }
.answers img { height: auto; } .looked { position: relative; display: block; line-height: 0; }
.looked svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.looked rect { fill: none; stroke: #fff; stroke-width: 1px; vector-effect: non-scaling-stroke; }
.looked .warm { fill: #ff3b1f; }
pre { overflow-x: auto; padding: .8rem 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; }
@media print { .dispute, figure.chart { break-inside: avoid; } th button::after { content: none !important; } }
"""

SORTING = """
for (const table of document.querySelectorAll("table.sorts")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, place) => head.firstElementChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== "descending";
    const by = row => row.cells[place].dataset.by;
    const compare = (a, b) => isNaN(by(a)) || isNaN(by(b)) ? by(a).localeCompare(by(b)) : by(a) - by(b);
    const rows = [...body.rows].sort((a, b) => down ? compare(b, a) : compare(a, b));
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows);
  }));
}
"""
