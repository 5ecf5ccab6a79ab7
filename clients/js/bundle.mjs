// How the library is bundled: for its package (build.mjs), and for the page of the connectors (connector/page/build.mjs).

import { fileURLToPath } from 'node:url';

/** The options of esbuild. `format` is `esm` or `cjs`. */
export const bundle = (format, outfile) => ({
  absWorkingDir: fileURLToPath(new URL('.', import.meta.url)),
  entryPoints: ['src/index.ts'],
  bundle: true,
  minify: true,
  // What begins with an underscore is for the other files of the library alone.
  mangleProps: /^_/,
  target: 'es2022',
  sourcemap: 'linked',
  format,
  outfile,
});
