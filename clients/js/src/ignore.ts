/** For what needs no answer. */
export const ignore = (): void => {};
