/** Told to the platform as if nobody had caught it, so that it is seen in the console or by a monitor of errors. */
function report(error: unknown): void {
  const { reportError }: { reportError?: (error: unknown) => void } = globalThis;
  if (reportError) reportError(error);
  else console.error(error);
}

/** Calls listeners. One that fails, now or later, disturbs neither the others nor the caller. */
export class Emitter<Events> {
  readonly #listeners: { [Name in keyof Events]?: Set<{ call: (event: Events[Name]) => unknown }> } = {};

  /** Returns a function that ends the subscription. */
  _on<Name extends keyof Events>(name: Name, call: (event: Events[Name]) => unknown): () => void {
    // An object of its own for each subscription: the same function may listen twice.
    const listener = { call };
    const listeners = (this.#listeners[name] ??= new Set());
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }

  _emit<Name extends keyof Events>(name: Name, event: Events[Name]): void {
    const listeners = this.#listeners[name];
    // A copy, because listeners may subscribe others, which begin with the next event.
    for (const listener of [...(listeners ?? [])]) {
      if (listeners!.has(listener)) (async () => listener.call(event))().catch(report);
    }
  }
}
