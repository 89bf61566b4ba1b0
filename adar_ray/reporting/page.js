// Draws the figures of a page once Plotly, which is packed in it, is unpacked.
const packed = Uint8Array.from(atob(document.getElementById("plotly").text), c => c.charCodeAt(0));
const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
const library = document.createElement("script");
library.text = await new Response(unpacked).text();
document.head.append(library);
const axis = {automargin: true, zeroline: false, title: {standoff: 8}, ticklabelstandoff: 3,
              autotickangles: [0, 90]};
const template = {layout: {
  xaxis: axis, yaxis: axis, font: {family: "inherit", size: 12},
  margin: {l: 8, r: 16, t: 16, b: 8}, legend: {orientation: "h", x: 0, y: 1.02, yanchor: "bottom"},
  paper_bgcolor: "transparent", plot_bgcolor: "transparent", hoverlabel: {align: "left"},
  // With a finger, dragging scrolls the page.
  dragmode: matchMedia("(hover: hover)").matches && "zoom", hovermode: "closest",
}};
for (const figure of document.querySelectorAll("figure")) {
  const {data, layout} = JSON.parse(figure.querySelector("script").text), place = figure.firstChild;
  await Plotly.newPlot(place, data, {...layout, template}, {responsive: true, displayModeBar: false});
  // The arrow keys go from point to point.
  const points = data.flatMap(({x, y, z, hoverinfo}, curveNumber) => hoverinfo === "skip" ? [] :
    z ? x.flatMap(xval => y.map(yval => ({curveNumber, xval, yval}))) :
    x.flatMap((_, pointNumber) => y[pointNumber] == null ? [] : [{curveNumber, pointNumber}]));
  let at = -1;
  figure.onkeydown = event => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!step || !points.length) return;
    event.preventDefault();
    at = (Math.max(at + step, -1) + points.length) % points.length;
    Plotly.Fx.hover(place, [points[at]]);
  };
  figure.onblur = () => Plotly.Fx.unhover(place);
}
