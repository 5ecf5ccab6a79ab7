// Who is logged in in this tab. It lives outside of the components, because a chat is one session: React may call a component
// twice, and may end and begin its effects again, and neither must log in a second time.

import { connect, type Chat } from 'global-channels-client';
import { useSyncExternalStore } from 'react';

interface Session {
  user?: string;
  chat?: Chat;
  /** Why the last session has ended. */
  ended?: string;
}

const USER = 'user';
let session: Session = {};
const listeners = new Set<() => void>();

/** What people should read in place of what the server says to programmers. */
const WORDS: Record<string, string> = {
  USER_LOGGED_IN: 'Somebody is in the chat under this name. Choose another one.',
  replaced: 'You have gone on in another tab.',
};

function become(next: Session) {
  session = next;
  for (const listener of listeners) listener();
}

export function logIn(user: string) {
  sessionStorage.setItem(USER, user);
  // After a reload of the tab, the session takes its place again, and is given what it has missed.
  const chat = connect(location.origin, { user, storage: sessionStorage });
  chat.on('state', ({ state, reason, message }) => {
    if (state === 'closed' && reason !== 'CLOSED') become({ user, ended: WORDS[reason ?? ''] ?? message ?? 'The session has ended.' });
  });
  become({ user, chat });
}

export function logOut() {
  const { chat } = session;
  sessionStorage.removeItem(USER);
  become({});
  chat?.close({ forget: true });
}

function subscribe(listener: () => void) {
  listeners.add(listener);
  return () => void listeners.delete(listener);
}

export const useSession = () => useSyncExternalStore(subscribe, () => session);

const before = sessionStorage.getItem(USER);
if (before) logIn(before);
