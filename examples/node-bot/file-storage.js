import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';

/** A storage for the library that keeps each text in a file of this folder. Two processes must not share a folder. */
export function fileStorage(folder) {
  const fileOf = (key) => `${folder}/${key}.json`;
  return {
    getItem(key) {
      try {
        return readFileSync(fileOf(key), 'utf8');
      } catch {
        return null; // There is none yet.
      }
    },
    setItem(key, text) {
      // The new file takes the place of the old one in one step, so a crash leaves one of the two, and never half of one. Only
      // its owner may read it, because whoever has the secret in it can take the bot's place.
      writeFileSync(`${fileOf(key)}.new`, text, { mode: 0o600 });
      renameSync(`${fileOf(key)}.new`, fileOf(key));
    },
    removeItem(key) {
      rmSync(fileOf(key), { force: true });
    },
  };
}
