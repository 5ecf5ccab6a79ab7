"""Makes a key and signs tokens with it, as an issuer in Python would with PyJWT.

    echo '{"alg":"RS256","kid":"one","claims":[{"sub":"ann"}]}' | python tokens.py

prints {"jwk":{…},"tokens":["…"]}. "life" is the number of seconds until the tokens expire.
"""
import json
import sys
import time

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

asked = json.load(sys.stdin)
algorithm, key_id = asked["alg"], asked["kid"]
if algorithm == "EdDSA":
    key = ed25519.Ed25519PrivateKey.generate()
elif algorithm == "ES384":
    key = ec.generate_private_key(ec.SECP384R1())
elif algorithm == "ES256":
    key = ec.generate_private_key(ec.SECP256R1())
else:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
jwk = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
now = int(time.time())
ours = {"iss": "https://id.example", "aud": ["chat"], "iat": now, "exp": now + asked.get("life", 3600)}
tokens = [
    jwt.encode({**ours, **claims}, key, algorithm=algorithm, headers={"kid": key_id})
    for claims in asked["claims"]
]
print(json.dumps({"jwk": {**jwk, "kid": key_id, "use": "sig"}, "tokens": tokens}))
