// A browser without a graphics unit draws on the processors that train. There edges are not smoothed, which halves
// the pixels' cost, and a page on which nothing moves draws once a second; all others are left alone.
(() => {
  const probe = document.createElement("canvas").getContext("webgl2");
  const info = probe && probe.getExtension("WEBGL_debug_renderer_info");
  const renderer = info ? probe.getParameter(info.UNMASKED_RENDERER_WEBGL) : "";
  const release = probe && probe.getExtension("WEBGL_lose_context");
  if (release) release.loseContext();
  if (!/swiftshader|llvmpipe|software|basic render/i.test(renderer)) return;

  const getContext = HTMLCanvasElement.prototype.getContext;
  HTMLCanvasElement.prototype.getContext = function (kind, options) {
    return getContext.call(this, kind, /^webgl/.test(kind) ? { ...options, antialias: false } : options);
  };

  const REST = 1000, AFTER_INPUT = 600, AFTER_MESSAGE = 50; // milliseconds
  const draw = window.requestAnimationFrame.bind(window), cancel = window.cancelAnimationFrame.bind(window);
  const real = new Map(); // of frames that were put off: their numbers here and the browser's
  let awakeUntil = performance.now() + 3000, timer = 0, next = -1, waiting = [];

  const drawWaiting = () => {
    clearTimeout(timer);
    timer = 0;
    const due = waiting;
    waiting = [];
    for (const [id, callback] of due) {
      real.set(id, draw((time) => { real.delete(id); callback(time); }));
    }
  };
  const wake = (milliseconds) => {
    awakeUntil = Math.max(awakeUntil, performance.now() + milliseconds);
    if (waiting.length) drawWaiting();
  };
  window.requestAnimationFrame = (callback) => {
    if (performance.now() < awakeUntil) return draw(callback);
    waiting.push([next, callback]);
    if (!timer) timer = setTimeout(drawWaiting, REST);
    return next--;
  };
  window.cancelAnimationFrame = (id) => {
    if (id > 0) return cancel(id);
    waiting = waiting.filter(([other]) => other !== id);
    if (real.has(id)) cancel(real.get(id));
    real.delete(id);
  };
  for (const kind of ["pointerdown", "pointermove", "pointerup", "wheel", "keydown", "touchmove", "resize"]) {
    window.addEventListener(kind, () => wake(AFTER_INPUT), { capture: true, passive: true });
  }
  // viser's connection lives in a worker; what it brings for the scene is drawn at once, numbers of the panel are not.
  const NativeWorker = window.Worker;
  window.Worker = class extends NativeWorker {
    constructor(...options) {
      super(...options);
      this.addEventListener("message", ({ data }) => {
        const news = (data && data.messages) || [];
        if (news.some(({ type }) => type !== "GuiUpdateMessage")) wake(AFTER_MESSAGE);
      });
    }
  };
})();
