// node-oidc-provider as a fair user would tune it for introspection: one process, plain HTTP, everything in memory.
// argv: number of tokens. Prints one line of JSON, {port, secret, tokens}, and serves until it is killed.
import { randomBytes } from "node:crypto";
import { Provider } from "oidc-provider";

const CLIENT = "edp-1";
const LIFE = 3600;
const secret = randomBytes(32).toString("base64url");
const stored = new Map();

// The adapter that comes with the library forgets what exceeds 1,000 entries; this one keeps all and is faster.
class Memory {
  constructor(model) {
    this.model = model;
  }
  async upsert(id, payload) {
    stored.set(`${this.model}:${id}`, payload);
  }
  async find(id) {
    return stored.get(`${this.model}:${id}`);
  }
}

const provider = new Provider("http://localhost", {
  adapter: Memory,
  clients: [
    {
      client_id: CLIENT,
      client_secret: secret,
      token_endpoint_auth_method: "client_secret_basic",
      grant_types: ["authorization_code"],
      redirect_uris: ["https://localhost/back"],
    },
  ],
  cookies: { keys: [randomBytes(32).toString("base64url")] },
  features: { introspection: { enabled: true }, devInteractions: { enabled: false } },
  ttl: { AccessToken: LIFE, Grant: LIFE },
});

const client = await provider.Client.find(CLIENT);
const tokens = [];
for (let number = 0; number < Number(process.argv[2]); number += 1) {
  const accountId = `account-${number}`;
  const grant = new provider.Grant({ accountId, clientId: CLIENT });
  grant.addOIDCScope("openid");
  const grantId = await grant.save();
  const token = new provider.AccessToken({ accountId, client, grantId, gty: "authorization_code", scope: "openid" });
  tokens.push(await token.save());
}

const server = provider.listen(0, "127.0.0.1", () => {
  console.log(JSON.stringify({ port: server.address().port, secret, tokens }));
});
server.keepAliveTimeout = 3600 * 1000;
