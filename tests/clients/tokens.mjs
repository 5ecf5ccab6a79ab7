// Makes a key and signs tokens with it, as an issuer in Node.js would with jose.
//   echo '{"alg":"ES256","kid":"one","claims":[{"sub":"ann"}]}' | node tokens.mjs
// prints {"jwk":{…},"tokens":["…"]}. "life" is the number of seconds until the tokens expire.
import { readFileSync } from "node:fs";
import { SignJWT, exportJWK, generateKeyPair } from "jose";

const { alg, kid, claims, life = 3600 } = JSON.parse(readFileSync(0, "utf8"));
const { publicKey, privateKey } = await generateKeyPair(alg, { extractable: true });
const jwk = { ...(await exportJWK(publicKey)), kid, alg, use: "sig" };
const sign = (claims) =>
  new SignJWT(claims)
    .setProtectedHeader({ alg, kid, typ: "JWT" })
    .setIssuer(claims.iss ?? "https://id.example")
    .setAudience("chat")
    .setIssuedAt()
    .setExpirationTime(claims.exp ?? `${life}s`)
    .sign(privateKey);
console.log(JSON.stringify({ jwk, tokens: await Promise.all(claims.map(sign)) }));
