interface Props {
  room: string;
  /** Who was logged in before. */
  user: string;
  /** Why that has ended. */
  ended: string | undefined;
  onLogIn(user: string): void;
}

export function Login({ room, user, ended, onLogIn }: Props) {
  const submit = (form: FormData) => {
    const name = String(form.get('user')).trim();
    if (name) onLogIn(name);
  };
  return (
    <main className="login">
      <form action={submit}>
        <h1>{room}</h1>
        {ended && <p role="alert">{ended}</p>}
        <label htmlFor="user">Your name</label>
        <input id="user" name="user" defaultValue={user} maxLength={50} autoComplete="username" required autoFocus />
        <button>Chat</button>
      </form>
    </main>
  );
}
