import type { Chat, LostEvent } from 'global-channels-client';
import type { SubmitEvent } from 'react';
import { useChannel, type Entry, type Outgoing } from './useChannel';

interface Props {
  chat: Chat;
  user: string;
  name: string;
  onLogOut(): void;
}

export function Room({ chat, user, name, onLogOut }: Props) {
  const room = useChannel(chat, name);
  const isAway = room.connection !== 'online';
  const wasThere = room.members.length > 0;
  // Not as the action of the form: React would clear the field a little later, and with it what was typed since.
  const submit = (event: SubmitEvent<HTMLFormElement>) => {
    event.preventDefault();
    const text = String(new FormData(event.currentTarget).get('text')).trim();
    event.currentTarget.reset();
    if (text) void room.send(text);
  };
  return (
    <div className="room">
      <header>
        <h1>{name}</h1>
        <span>{user}</span>
        <button onClick={onLogOut}>Log out</button>
      </header>
      <p className="banner" role="status">
        {isAway && `${wasThere ? 'Connecting again' : 'Connecting'}… You can go on writing.`}
      </p>
      <aside aria-labelledby="members">
        <h2 id="members">Here: {room.members.length}</h2>
        <ul>
          {room.members.map((member) => (
            <li key={member}>{member}</li>
          ))}
        </ul>
      </aside>
      <main>
        {/* The log begins at its end (see style.css), so it stays there while messages come, unless somebody has scrolled up. */}
        <div className="log" role="log" aria-label="Messages" tabIndex={0}>
          <ol>
            {room.entries.map((entry) => (
              <Line key={entry.key} entry={entry} user={user} />
            ))}
            {room.outbox.map((message) => (
              <OnItsWay key={message.id} message={message} onRetry={room.retry} onDiscard={room.discard} />
            ))}
          </ol>
        </div>
        <p className="typing">{room.typing.length > 0 && `${room.typing.join(', ')} typing…`}</p>
        {room.parted ? (
          <p role="alert">
            You are not in this channel ({room.parted}). <button onClick={room.join}>Join again</button>
          </p>
        ) : (
          <form onSubmit={submit}>
            <input
              name="text"
              aria-label="Message"
              placeholder="Message"
              autoComplete="off"
              autoFocus
              onChange={({ target }) => room.sendTyping(target.value !== '')}
            />
            <button>Send</button>
          </form>
        )}
      </main>
    </div>
  );
}

function Line({ entry: { event, isGone }, user }: { entry: Entry; user: string }) {
  switch (event.type) {
    case 'message': {
      const isOwn = String(event.userId) === user;
      return (
        <li className={`message ${isOwn ? 'own' : ''} ${isGone ? 'gone' : ''}`}>
          <b>{isOwn ? 'You' : (event.userId ?? event.route)}</b>
          <span className="text">{String(event.body.content)}</span>
          <small>
            <time dateTime={new Date(event.time).toISOString()}>
              {new Date(event.time).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' })}
            </time>
            {isGone && ' · lost by the server'}
          </small>
        </li>
      );
    }
    case 'join':
      return <li className="note">{event.userId} has joined.</li>;
    case 'leave':
      return <li className="note">{event.userId} has left.</li>;
    case 'lost':
      return <li className="note lost">{inWords(event)}</li>;
  }
}

function inWords({ reason, from, to }: LostEvent): string {
  switch (reason) {
    case 'diverged':
      return 'The server has lost what is marked above. Nobody else can read it.';
    case 'unknown':
      return 'The server has begun this channel anew. Something may be missing here.';
    default: {
      const count = to.offset - from.offset;
      return `${from.epoch === to.epoch ? count : 'Some'} ${count === 1 ? 'entry is' : 'entries are'} missing here.`;
    }
  }
}

interface OnItsWayProps {
  message: Outgoing;
  onRetry(message: Outgoing): void;
  onDiscard(message: Outgoing): void;
}

function OnItsWay({ message, onRetry, onDiscard }: OnItsWayProps) {
  const { text, state, reason } = message;
  return (
    <li className={`message own ${state}`}>
      <b>You</b>
      <span className="text">{text}</span>
      {state === 'failed' ? (
        <small role="alert">
          {reason === 'UNKNOWN' ? 'It is not known whether this was sent.' : `Not sent (${reason}).`}{' '}
          <button onClick={() => onRetry(message)}>Send again</button> <button onClick={() => onDiscard(message)}>Discard</button>
        </small>
      ) : (
        <small>{state === 'pending' ? 'sending…' : 'sent'}</small>
      )}
    </li>
  );
}
