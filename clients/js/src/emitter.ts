type Report = (error: unknown) => void;

/** Not every platform has both, or one of them. */
const platform: { reportError?: Report; console?: { error: Report } } = globalThis;

/** Tells of an error that nobody has caught, so that it is seen in the console, or by the app's own handler of errors. */
export const report: Report = (error) => (platform.reportError ?? platform.console?.error)?.(error);

/** Something that has events. */
export class Emitter<Events> {
  readonly #listeners: { [Name in keyof Events]?: Set<{ call: (event: Events[Name]) => unknown }> } = {};

  /** Calls a function for each event of this name. Returns a function that ends this. */
  on<Name extends keyof Events>(name: Name, call: (event: Events[Name]) => unknown): () => void {
    // An object of its own for each subscription, because the same function may listen twice.
    const listener = { call };
    const listeners = (this.#listeners[name] ??= new Set());
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }

  /** How many listen to events of this name. @internal */
  _hears(name: keyof Events): number | undefined {
    return this.#listeners[name]?.size;
  }

  /**
   * Calls the listeners. One that fails, now or later, disturbs neither the others nor the caller.
   * @internal
   */
  _emit<Name extends keyof Events>(name: Name, event: Events[Name]): void {
    const listeners = this.#listeners[name];
    // A copy, because a listener may subscribe others, which begin with the next event.
    for (const listener of [...(listeners ?? [])]) {
      if (listeners!.has(listener)) (async () => listener.call(event))().catch(report);
    }
  }
}
