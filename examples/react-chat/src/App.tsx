import { Login } from './Login';
import { Room } from './Room';
import { logIn, logOut, useSession } from './session';

/** The address chooses the channel: http://localhost:5173/?room=garden. */
const room = new URLSearchParams(location.search).get('room') || 'lobby';

export function App() {
  const { user = '', chat, ended } = useSession();
  if (!chat) return <Login room={room} user={user} ended={ended} onLogIn={logIn} />;
  return <Room chat={chat} user={user} name={room} onLogOut={logOut} />;
}
