// Makes dist/: one minified file for `import`, one for `require`, and the types of both. `--pack` adds the licences, which stand
// at the root of the repository and belong into the package.

import { build } from 'esbuild';
import { execFileSync } from 'node:child_process';
import { copyFileSync, cpSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { bundle } from './bundle.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));
process.chdir(here);
rmSync('dist', { recursive: true, force: true });

execFileSync(process.execPath, ['node_modules/typescript/bin/tsc', '--project', 'tsconfig.json'], { stdio: 'inherit' });
// Of the types, only what the package offers: what index.d.ts names, and what that names.
const offered = new Set(['index']);
for (const name of offered) {
  for (const [, other] of readFileSync(`dist/${name}.d.ts`, 'utf8').matchAll(/from '\.\/(.+)\.js'/g)) offered.add(other);
}
for (const file of readdirSync('dist')) if (!offered.has(file.replace('.d.ts', ''))) rmSync(`dist/${file}`);
cpSync('dist', 'dist-types', { recursive: true });
cpSync('dist-types', 'dist/cjs', { recursive: true });
rmSync('dist-types', { recursive: true });
// Below this file, `.js` means CommonJS, also for the types.
writeFileSync('dist/cjs/package.json', '{ "type": "commonjs" }\n');

for (const [format, outfile] of [
  ['esm', 'dist/index.js'],
  ['cjs', 'dist/cjs/index.js'],
]) {
  await build(bundle(format, outfile));
}

if (process.argv.includes('--pack')) {
  for (const licence of ['LICENSE-MIT', 'LICENSE-APACHE']) copyFileSync(`../../${licence}`, licence);
}
