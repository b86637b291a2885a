"""How the page looks: light and dark, on a screen of 1280 pixels and on A4, loading nothing."""

STYLE = """
:root{color-scheme:light dark;--ink:#1a1c20;--page:#fff;--soft:#f5f6f8;--line:#d5d8de;--dim:#596070;--good:#176b2e;--bad:#b3201f;--open:#835500;
--good-soft:#e3f4e8;--bad-soft:#fde7e6;--open-soft:#fdf1d6;--bar:#4a80b8}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8ec;--page:#14161a;--soft:#1d2025;--line:#3a3e46;--dim:#a3abb8;--good:#5fd07d;--bad:#ff8a82;--open:#eab94c;
--good-soft:#12301b;--bad-soft:#3d1917;--open-soft:#33270c;--bar:#6ea6e0}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;color:var(--ink);background:var(--page);max-width:1160px;margin:1.5rem auto;padding:0 1.2rem}
h1{font-size:1.35rem;margin:.2rem 0}h2{font-size:1.3rem;margin:2.6rem 0 .4rem;padding-top:1rem;border-top:2px solid var(--line)}
h3{font-size:1.05rem;margin:1.8rem 0 .3rem}p{margin:.4rem 0}ul{margin:.3rem 0;padding-left:1.3rem}
.verdict{border-left:.4rem solid;padding:.3rem 0 .3rem .9rem;margin:.6rem 0 1rem}.verdict b{font-size:1.5rem;line-height:1.3}.verdict p{color:var(--ink);font-size:1.05rem;margin:.2rem 0 0}
table{border-collapse:collapse;width:100%;font-size:.85rem;margin:.4rem 0}caption{text-align:left;color:var(--dim);padding-bottom:.3rem}
th,td{text-align:left;padding:.28rem .55rem;border-bottom:1px solid var(--line);vertical-align:top;font-weight:400}thead th{font-weight:600;vertical-align:bottom;border-bottom:2px solid var(--line)}
tbody th{font-weight:600}.group th{background:var(--soft);font-weight:600}
th.n,td.n{text-align:right}.n{font-variant-numeric:tabular-nums;white-space:nowrap}
small{color:var(--dim);font-size:.92em}.dim{color:var(--dim)}.good{color:var(--good)}.bad{color:var(--bad)}.open,.hit{color:var(--open)}
.matrix{width:auto;min-width:60%}.matrix td.cell{color:var(--ink);border:1px solid var(--line);min-width:9rem}.cell.good{background:var(--good-soft)}.cell.bad{background:var(--bad-soft);outline:2px solid var(--bad);outline-offset:-2px}.cell.open{background:var(--open-soft);outline:2px dashed var(--open);outline-offset:-2px}
.cell.good b{color:var(--good)}.cell.bad b{color:var(--bad)}.cell.open b{color:var(--open)}
.facts{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;margin:.6rem 0;font-size:.92rem}.facts dt{color:var(--dim)}.facts dd{margin:0}
pre{background:var(--soft);border:1px solid var(--line);padding:.7rem;font-size:.8rem;white-space:pre-wrap;overflow-wrap:anywhere}
code{font-size:.92em;overflow-wrap:anywhere}.id,pre{user-select:all}
svg{width:100%;height:auto;display:block}figure{margin:1rem 0}figcaption{margin-bottom:.2rem}.wide{overflow-x:auto}
.trace table{table-layout:fixed;margin-top:.3rem}.trace th:nth-child(1){width:27%}.trace th:nth-child(2){width:19%}.trace th:nth-child(4){width:6rem}.trace td{overflow-wrap:anywhere}
.lane>div{position:relative;height:1.1rem;border-left:1px solid var(--line);border-right:1px solid var(--line)}
.lane i{position:absolute;top:.15rem;height:.8rem;min-width:3px;background:var(--bar);border:1px solid var(--bar)}.lane i.bad{background:var(--bad);border-color:var(--bad)}.lane i.hit{background:var(--open);border-color:var(--open)}
.lane s{position:absolute;top:-.3rem;bottom:-.3rem;width:0;border-left:2px dotted var(--bad)}
.scale{display:flex;justify-content:space-between;font-weight:400;color:var(--dim)}
.short{white-space:nowrap}nav a,td a{color:inherit}.wide-table{font-size:.78rem}
@media print{@page{size:A4;margin:14mm 12mm}:root{color-scheme:light;--ink:#000;--page:#fff;--soft:#f3f3f3;--line:#bbb;--dim:#444;--good:#176b2e;--bad:#b3201f;--open:#835500;--good-soft:#e3f4e8;--bad-soft:#fde7e6;--open-soft:#fdf1d6;--bar:#4a80b8}
body{margin:0;max-width:none;padding:0;font-size:10pt}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
tr,li,figure,.verdict,dl{break-inside:avoid}h2,h3,caption,figcaption,.group,p.dim{break-after:avoid}thead{display:table-header-group}
section.fault+section.fault{break-before:page}.wide{overflow:visible}table{font-size:8pt}.matrix{width:100%}.matrix td.cell{min-width:0}
.wide-table{font-size:6.5pt}.wide-table th,.wide-table td{padding:.15rem .2rem}.n{white-space:normal}a[href^=http]::after{content:" (" attr(href) ")";font-size:.85em;overflow-wrap:anywhere}}
"""
