// Exchange of the selected patch, layer and head with the widget that contains the page.

function frame() {
  const { image, attention } = content;
  if (window.parent === window || !image) return;
  const prefix = attention?.prefix ?? 0;
  const patches = image.grid[0] * image.grid[1];
  let known = ''; // the selection that the widget has

  function selection() {
    const patch = state.token >= prefix ? state.token - prefix : -1;
    return { patch, layer: state.layer, head: state.head };
  }

  function send() {
    if (JSON.stringify(selection()) === known) return;
    known = JSON.stringify(selection());
    window.parent.postMessage({ semattn: selection() }, '*');
  }

  // One change at a time would be answered with a selection that is half old.
  function receive({ source, data }) {
    if (source !== window.parent || !data?.semattn) return;
    const { patch, layer, head } = data.semattn;
    if (Number.isInteger(patch) && patch >= 0 && patch < patches) Object.assign(state, { token: prefix + patch, hovered: null });
    if (attention && layerNumbers.includes(layer) && Number.isInteger(head) && head >= MEAN) {
      Object.assign(state, { layer, head: Math.min(head, layerAt(layer).heads - 1) });
    }
    known = JSON.stringify({ patch, layer, head });
    for (const listener of listeners) listener({}); // `send` corrects a selection that does not exist
  }

  window.addEventListener('message', receive);
  listen(send);
  send();
}
