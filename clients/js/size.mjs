// Fails if the library is larger than what its README promises.

import { readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

const LIMIT = 6 * 1024;
const bytes = gzipSync(readFileSync(new URL('dist/index.js', import.meta.url)), { level: 9 }).length;
console.log(`dist/index.js: ${bytes} bytes gzipped; the limit is ${LIMIT}`);
if (bytes > LIMIT) process.exit(1);
