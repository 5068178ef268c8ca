// Widget of a notebook: the report in a sandboxed frame, and its selection as attributes.

const NAMES = ['patch', 'layer', 'head'];

export default {
  render({ model, el }) {
    const frame = document.createElement('iframe');
    frame.title = 'semattn report';
    frame.sandbox = 'allow-scripts';
    frame.style = `width:100%;height:${model.get('height')}px;border:0`;
    frame.srcdoc = model.get('page');

    let isReady = false; // the page listens from its first message on
    const send = () => {
      const selection = Object.fromEntries(NAMES.map((name) => [name, model.get(name)]));
      if (isReady) frame.contentWindow?.postMessage({ semattn: selection }, '*');
    };
    const receive = ({ source, data }) => {
      const selection = data?.semattn;
      if (source !== frame.contentWindow || !selection || !NAMES.every((name) => Number.isInteger(selection[name]))) return;
      const names = isReady ? NAMES : NAMES.filter((name) => name === 'layer' && model.get(name) < 0);
      for (const name of names) model.set(name, selection[name]);
      model.save_changes();
      if (!isReady) {
        isReady = true;
        send(); // a selection that was made before the page was there
      }
    };
    window.addEventListener('message', receive);
    for (const name of NAMES) model.on(`change:${name}`, send);
    el.append(frame);
    return () => {
      window.removeEventListener('message', receive);
      for (const name of NAMES) model.off(`change:${name}`, send);
    };
  },
};
