// The time under the pointer, over the whole timeline.
const svg = document.querySelector('svg.timeline');
const cursor = document.getElementById('cursor');
if (svg && cursor) {
  const left = Number(svg.dataset.left), plot = Number(svg.dataset.plot), end = Number(svg.dataset.end) / 1e9;
  const [line, text] = cursor.children;
  svg.addEventListener('pointermove', (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse()).x;
    const inside = at >= left && at <= left + plot;
    cursor.style.display = inside ? '' : 'none';
    if (!inside) return;
    line.setAttribute('x1', at);
    line.setAttribute('x2', at);
    text.setAttribute('x', at);
    text.textContent = ((at - left) / plot * end).toFixed(2) + ' s';
  });
  svg.addEventListener('pointerleave', () => { cursor.style.display = 'none'; });
}
