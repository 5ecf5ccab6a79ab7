// Who is in a channel now, and who was there a while ago.

/** So many of those who have left are remembered. */
const MOST_GONE = 20;

export class People {
  here = new Map(); // the name → when they came, if we have seen it
  gone = new Map(); // the name → when they left; the last one to leave is the last one here
  /** What happens while the list is being fetched. The list may be older or newer than that. */
  #meanwhile;

  async read(channel) {
    const meanwhile = (this.#meanwhile = []);
    const members = await channel.members();
    if (meanwhile !== this.#meanwhile) return; // it was begun again
    this.#meanwhile = undefined;
    this.here = new Map(members.map(({ userId }) => [userId, this.here.get(userId)]));
    for (const { userId } of members) this.gone.delete(userId);
    for (const event of meanwhile) this.saw(event);
  }

  saw(event) {
    this.#meanwhile?.push(event);
    const name = String(event.userId);
    if (event.type === 'join') {
      this.here.set(name, event.time);
      this.gone.delete(name);
    } else if (event.type === 'leave') {
      this.here.delete(name);
      this.gone.delete(name);
      this.gone.set(name, event.time);
      if (this.gone.size > MOST_GONE) this.gone.delete(this.gone.keys().next().value);
    }
  }
}
