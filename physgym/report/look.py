"""The look of a report: its style sheet, and what draws its plots in the browser."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light;--ink:#1d2433;--soft:#5c6577;--line:#dfe3ea;--mark:#2a6f97}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:#fff;color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",
Arial,sans-serif}
main{max-width:1120px;margin:0 auto;padding:32px 24px 48px}
h1{font-size:1.9rem;line-height:1.2;margin:.1em 0 .2em;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:2.2em 0 .6em;padding-bottom:.25em;border-bottom:2px solid var(--line);break-after:avoid}
p{margin:.5em 0;max-width:75ch;overflow-wrap:anywhere}
a{color:var(--mark)}
.kind{color:var(--mark);font-weight:600;font-size:.85rem;letter-spacing:.06em;text-transform:uppercase}
header p{color:var(--soft)}
nav{display:flex;flex-wrap:wrap;gap:4px 18px;margin:14px 0 6px;font-size:.92rem}
nav a{text-decoration:none}
nav a:hover{text-decoration:underline}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:12px;margin:18px 0 6px}
.card{border:1px solid var(--line);border-radius:8px;padding:12px 10px;break-inside:avoid}
.card .figure{font-size:1.2rem;font-weight:650;line-height:1.25;overflow-wrap:anywhere}
.card .what{color:var(--soft);font-size:.86rem}
.remark{border-left:4px solid #e09f3e;background:#fff8ec;padding:8px 12px;border-radius:0 6px 6px 0}
.note{color:var(--soft);font-size:.85rem;margin:.25em 0 0;max-width:95ch}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 18px;margin:.6em 0}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere;min-width:0}
.table{overflow-x:auto;margin:.8em 0}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:5px 14px 5px 0;text-align:left;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--soft);font-weight:600}
.n{text-align:right}
td.w{white-space:normal;min-width:260px;overflow-wrap:anywhere}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,320px),1fr));gap:18px 22px;margin:.8em 0}
figure{margin:0;min-width:0;break-inside:avoid}
figure.wide{grid-column:1/-1}
figure.picture{margin:1.1em 0}
figcaption{font-weight:600;font-size:.92rem;margin-bottom:2px;overflow-wrap:anywhere}
img{max-width:100%;height:auto;display:block;border:1px solid var(--line);border-radius:6px}
details{margin:.8em 0;border:1px solid var(--line);border-radius:8px;padding:8px 14px}
summary{cursor:pointer;font-weight:600;font-size:.92rem}
pre{overflow-x:auto;font-size:.82rem;line-height:1.45;margin:.6em 0}
footer{margin-top:40px;padding-top:10px;border-top:1px solid var(--line);color:var(--soft);font-size:.85rem}
@media (max-width:600px){main{padding:20px 16px 36px}h1{font-size:1.5rem}dl{grid-template-columns:1fr;gap:0}
dd{margin-bottom:8px}.cards{grid-template-columns:repeat(2,minmax(0,1fr))}.card .figure{font-size:1.15rem}}
@media print{body{font-size:11pt}main{max-width:none;padding:0}nav{display:none}.table{overflow:visible}
th,td{white-space:normal}.charts{grid-template-columns:1fr 1fr}details:not([open]){display:none}}
"""

# a finger that scrolls the page must not draw a frame in a plot
DRAW = """
(function(){
const touch=matchMedia("(pointer: coarse)").matches;
const base={autosize:true,margin:{l:56,r:10,t:6,b:42},paper_bgcolor:"#fff",plot_bgcolor:"#fff",
font:{family:getComputedStyle(document.body).fontFamily,size:12,color:"#1d2433"},hovermode:"closest",bargap:0.15,
legend:{orientation:"h",x:0,y:1.02,yanchor:"bottom",font:{size:11}},dragmode:touch?false:"zoom"};
const axis={gridcolor:"#edf0f4",linecolor:"#aab2bf",zeroline:false,automargin:true,ticks:"outside",tickcolor:"#aab2bf",
ticklen:4,nticks:6};
figures.forEach(function(figure,number){
const place=document.getElementById("p"+(number+1));
const layout=Object.assign({},base,{height:place.clientHeight,
xaxis:Object.assign({},axis,figure.layout.xaxis),yaxis:Object.assign({},axis,figure.layout.yaxis)});
layout.showlegend=figure.data.filter(function(t){return t.showlegend!==false}).length>1;
Plotly.newPlot(place,figure.data,layout,{responsive:true,displaylogo:false,displayModeBar:false});
});
addEventListener("beforeprint",function(){document.querySelectorAll(".plot").forEach(function(place){
Plotly.Plots.resize(place)})});
})();
"""
