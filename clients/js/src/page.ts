/** What a browser tells about its page and network. */
export interface PageEvents {
  /** The page is seen again, or there is a network again. */
  _woke(): void;
  /** There is no network. */
  _offline(): void;
  /** The page may be about to end. */
  _hidden(): void;
}

/** Listens to what the platform has of it. Returns a function that ends it. */
export function watchPage(events: PageEvents): () => void {
  const ends: (() => void)[] = [];
  const listen = (target: EventTarget | undefined, name: string, call: () => void) => {
    if (!target?.addEventListener) return;
    target.addEventListener(name, call);
    ends.push(() => target.removeEventListener(name, call));
  };
  const { document } = globalThis;
  listen(globalThis, 'online', events._woke);
  listen(globalThis, 'pageshow', events._woke);
  listen(globalThis, 'offline', events._offline);
  listen(globalThis, 'pagehide', events._hidden);
  listen(document, 'visibilitychange', () => (document.hidden ? events._hidden() : events._woke()));
  return () => {
    for (const end of ends) end();
  };
}
