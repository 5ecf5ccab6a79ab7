const steady = () => globalThis.performance?.now() ?? 0;
const [wallAtStart, steadyAtStart] = [Date.now(), steady()];

/**
 * Milliseconds since the program began. Neither clock of the platform is enough: `performance.now()` stands still while some
 * machines sleep, and `Date.now()` goes back when somebody sets the clock. A message whose key seems younger than it is
 * would be stored twice.
 */
export const now = (): number => Math.max(Date.now() - wallAtStart, steady() - steadyAtStart);
