// Makes the two scripts that connectors serve with the page: page.js of src/, and client.js of the client library in clients/js,
// as it is in its package. Both are committed, so that building a connector needs no Node.
//
//   npm ci --prefix clients/js && node connector/page/build.mjs           writes them
//   node connector/page/build.mjs --check                                 fails if they are not what it would write
//
// The page is bundled and minified because all that is served together shall stay small.

import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { bundle } from '../../clients/js/bundle.mjs';
import { build } from '../../clients/js/node_modules/esbuild/lib/main.js';

const LIMIT = 60 * 1024;

const here = fileURLToPath(new URL('.', import.meta.url));
process.chdir(here);

/** The script that esbuild makes with these options. */
async function script(options) {
  const { outputFiles } = await build({ ...options, write: false });
  return outputFiles.find(({ path }) => path.endsWith('.js')).text;
}

const made = {
  'client.js': await script(bundle('esm', 'dist/index.js')),
  'page.js': await script({
    absWorkingDir: here,
    entryPoints: ['src/page.js'],
    bundle: true,
    minify: true,
    format: 'esm',
    target: 'es2022',
    external: ['./client.js'],
    outfile: 'page.js',
  }),
};

if (!process.argv.includes('--check')) for (const [name, text] of Object.entries(made)) writeFileSync(name, text);
const stale = Object.keys(made).filter((name) => readFileSync(name, 'utf8') !== made[name]);
if (stale.length) console.error(`${stale.join(' and ')}: not what is built now. Run node connector/page/build.mjs`);

const served = readdirSync('.').filter((name) => /\.(html|css|js)$/.test(name));
const bytes = served.reduce((sum, name) => sum + readFileSync(name).length, 0);
console.log(`${served.join(', ')}: ${bytes} bytes; the limit is ${LIMIT}`);
if (stale.length || bytes > LIMIT) process.exit(1);
