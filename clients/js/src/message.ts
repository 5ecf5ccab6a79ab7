/** The body of an answer. With a code other than 0 it is a refusal. */
export interface Reply {
  readonly code: number;
  readonly reason?: string | undefined;
  readonly message?: string | undefined;
  readonly retry?: boolean | undefined;
  readonly retryAfterMs?: number | undefined;
  // Each handler has its own fields.
  readonly [name: string]: any;
}

/** What the server sends without being asked. */
export interface Push {
  readonly route?: string;
  readonly channel?: string;
  readonly offset?: number;
  readonly time: number;
  readonly ephemeral?: boolean;
  // Each route has its own fields.
  readonly body: any;
}
