// Widget of a notebook: the report in a sandboxed frame, and its selection as attributes.

const NAMES = ['patch', 'layer', 'head'];

export default {
  render({ model, el }) {
    const frame = document.createElement('iframe');
    frame.title = 'semattn report';
    frame.sandbox = 'allow-scripts';
    frame.style = `width:100%;height:${model.get('height')}px;border:0`;
    frame.srcdoc = model.get('page');

    const isInteger = (value) => Number.isInteger(value);
    const receive = ({ source, data }) => {
      const selection = data?.semattn;
      if (source !== frame.contentWindow || !selection || !NAMES.every((name) => isInteger(selection[name]))) return;
      for (const name of NAMES) model.set(name, selection[name]);
      model.save_changes();
    };
    const send = () => {
      const selection = Object.fromEntries(NAMES.map((name) => [name, model.get(name)]));
      frame.contentWindow?.postMessage({ semattn: selection }, '*');
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
