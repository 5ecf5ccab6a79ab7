// The words for people, by the reason that a program gets.

const words = {
  ALREADY_JOINED: 'you are there already',
  BLOCKED: 'you are blocked here',
  CLOSED: 'you were logged out before',
  DELETED: 'the channel was deleted',
  EPHEMERAL_ONLY: 'nothing that is kept may be written here',
  INVALID_PARAMETER: 'the name is too long, or has characters that are not allowed',
  LOST: 'the connection was lost',
  MISSING_PARAMETER: 'the name is empty',
  NO_ANSWER: 'the server does not answer',
  NOT_ALLOWED: 'you may not do this',
  NOT_JOINED: 'you are not in this channel',
  OFFLINE: 'there is no network',
  QUEUE_FULL: 'too much waits to be sent',
  RATE_LIMITED: 'that was too much at once',
  REMOVED: 'you were removed from it',
  STORE_FULL: 'the server has no room',
  TOKEN_EXPIRED: 'your token has expired. Enter a new one',
  TOKEN_INVALID: 'this server wants a token that it accepts',
  TOKEN_REVOKED: 'your token was revoked. Enter a new one',
  TOO_BIG: 'the message is too long for this server',
  TOO_MANY_CHANNELS: 'you are in too many channels. Leave one first',
  TOO_MANY_CONNECTIONS: 'you have too many windows open. Close one of them',
  TRY_LATER: 'the server is busy',
  UNAVAILABLE: 'the server has a problem',
  UNKNOWN_OUTCOME: 'the server has a problem',
  USER_LOGGED_IN: 'somebody is logged in under this name. Close the other window, or try again in a minute',
  'connector restarted': 'the server was restarted',
  attack: 'the server took this for an attack',
  blocked: 'you are blocked here',
  disconnected: 'the server has ended your session',
  displaced: 'another connection took your place',
  idle: 'you were not logged in in time',
  kick: 'you have logged in elsewhere',
  malformed: 'the server did not understand this page',
  moved: 'the server gives you another place',
  overloaded: 'the server is busy',
  'reconnect requested': 'the server asks for it',
  replaced: 'you have gone on in another window',
  shutdown: 'the server is being restarted',
  slow: 'the connection was too slow',
  'token expired': 'your token has expired. Enter a new one',
  'token revoked': 'your token was revoked. Enter a new one',
};

/** Takes an error or an event of the library. */
export function inWords({ reason, message, error, details = error?.details }) {
  const text = words[reason] ?? message ?? reason ?? 'the server has a problem';
  const until = details?.until && ` until ${new Date(details.until).toLocaleString()}`;
  const because = details?.because && ` (${details.because})`;
  return [text, until, because].filter(Boolean).join('');
}
