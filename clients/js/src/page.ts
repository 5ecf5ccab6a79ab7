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
export function watchPage({ _woke, _offline, _hidden }: PageEvents): () => void {
  const { document } = globalThis;
  const listeners: [EventTarget | undefined, string, () => void][] = [
    [globalThis, 'online', _woke],
    [globalThis, 'pageshow', _woke],
    [globalThis, 'offline', _offline],
    [globalThis, 'pagehide', _hidden],
    [document, 'visibilitychange', () => (document.hidden ? _hidden() : _woke())],
  ];
  for (const [target, name, call] of listeners) target?.addEventListener?.(name, call);
  return () => {
    for (const [target, name, call] of listeners) target?.removeEventListener?.(name, call);
  };
}
