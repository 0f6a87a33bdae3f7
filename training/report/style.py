"""The style sheet of an evaluation's report, for light and dark pages."""

STYLE = """
:root{color-scheme:light dark;--page:#f6f7f9;--panel:#fff;--ink:#1d2430;--soft:#5d6878;--rule:#dfe3e9;
--s0:#2867c9;--s1:#f2b134;--s2:#2f9e77;--s3:#9a4fc4;--s4:#e2643d}
@media (prefers-color-scheme:dark){:root{--page:#12161c;--panel:#1b2129;--ink:#e6eaf0;--soft:#98a3b3;--rule:#2f3843;
--s0:#6fa4f2}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1180px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:28px;line-height:1.2;margin:0 0 12px}h2{font-size:18px;margin:0 0 4px}
h3{font-size:14px;margin:20px 0 6px;font-weight:600}
.note{color:var(--soft);font-size:13px;margin:0 0 14px;max-width:80ch}
.facts{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;margin:0 0 22px;font-size:13px}
.facts dt{color:var(--soft)}.facts dd{margin:0;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin-bottom:20px}
.tile{background:var(--panel);border:1px solid var(--rule);border-top:3px solid var(--s0);border-radius:10px;
padding:14px 16px}
.tile .name{font-size:13px;color:var(--soft)}.tile .value{font-size:32px;line-height:1.25;font-weight:650}
.tile .note{margin:0;font-size:12px;overflow-wrap:anywhere}
section{background:var(--panel);border:1px solid var(--rule);border-radius:10px;padding:20px 22px;margin-bottom:20px}
svg{display:block;width:100%;height:auto;font:12px system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
svg text{fill:var(--ink)}svg .tick{fill:var(--soft)}svg .on-dark{fill:#fff}
.limit{stroke:var(--s4);stroke-width:1.5;stroke-dasharray:5 4}.heat{fill:#2867c9}
.series0{fill:var(--s0);background:var(--s0)}.series1{fill:var(--s1);background:var(--s1)}
.series2{fill:var(--s2);background:var(--s2)}.series3{fill:var(--s3);background:var(--s3)}
.series4{fill:var(--s4);background:var(--s4)}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:13px;margin:10px 0}
.legend i{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:6px;vertical-align:-1px}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:13px;margin-top:12px;min-width:50%}
th{text-align:right;font-weight:600;font-size:12px;color:var(--soft);vertical-align:bottom}
th,td{padding:4px 14px 4px 0;border-bottom:1px solid var(--rule)}td{text-align:right;white-space:nowrap}
th:first-child,td:first-child,td.text,th.text{text-align:left}td.source{color:var(--soft);font-size:12px}
tr.own td{font-weight:650}
.other{border-left:3px solid var(--s1);padding-left:14px}
.row{display:grid;grid-auto-flow:column;grid-auto-columns:1fr;gap:8px;margin-bottom:6px}
figure{margin:0}figure img{display:block;width:100%;border-radius:6px;background:#000}
figcaption{font-size:12px;color:var(--soft);margin-top:3px}
summary{cursor:pointer;font-size:13px;color:var(--soft);margin-top:12px}
pre{font:12px ui-monospace,"DejaVu Sans Mono",monospace;white-space:pre-wrap;overflow-wrap:anywhere;max-height:260px;
overflow:auto;margin:8px 0 0}
@media print{body{background:#fff}section,.tile{break-inside:avoid}}
"""
