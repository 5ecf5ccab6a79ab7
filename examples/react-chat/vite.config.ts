import react from '@vitejs/plugin-react';
import { defineConfig, loadEnv } from 'vite';

/** Where the chat server is. Vite passes on to it what the page sends to /ws, so for the browser both are one site. */
const chatServer = (mode: string) => loadEnv(mode, '.').VITE_CHAT_URL ?? 'http://127.0.0.1:3010';

export default defineConfig(({ mode }) => ({
  plugins: [react()],
  server: { proxy: { '/ws': { target: chatServer(mode), ws: true } } },
}));
