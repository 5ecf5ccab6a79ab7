// Who is logged in in this tab, and where. It outlives a reload of the tab, and no more than that.

const KEY = 'page';

/** What the browser has for us. It may not allow any. */
export const storage = (() => {
  try {
    sessionStorage.getItem(KEY);
    return sessionStorage;
  } catch {
    return undefined;
  }
})();

/** `{ user, token, channels, shown }`, or `undefined`. */
export function remembered() {
  try {
    const session = JSON.parse(storage.getItem(KEY));
    return typeof session?.user === 'string' && Array.isArray(session.channels) ? session : undefined;
  } catch {
    return undefined;
  }
}

export function remember(session) {
  try {
    if (session) storage.setItem(KEY, JSON.stringify(session));
    else storage.removeItem(KEY);
  } catch {
    // There is none, or it is full. Then a reload asks who it is.
  }
}
