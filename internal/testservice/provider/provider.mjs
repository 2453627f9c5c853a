// An OpenID provider for tests: panva's oidc-provider with its own login pages for development, which take any password.
// Its one argument is a JSON document: issuer, port, keys (JWKs, the first signs), users by name with their claims, and
// lifetimes in seconds.
import Provider from 'oidc-provider';

const config = JSON.parse(process.argv[2]);
const device = 'urn:ietf:params:oauth:grant-type:device_code';
const client = (id) => ({
  client_id: id,
  application_type: 'native',
  token_endpoint_auth_method: 'none',
  id_token_signed_response_alg: 'ES256',
  grant_types: ['authorization_code', 'refresh_token', device],
  response_types: ['code'],
  redirect_uris: ['http://127.0.0.1/callback'],
});
const claims = (id) => config.users[id];

const provider = new Provider(config.issuer, {
  clients: config.clients.map(client),
  jwks: { keys: config.keys },
  cookies: { keys: ['only for tests'] },
  claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['preferred_username', 'name'], groups: ['groups', 'org'] },
  conformIdTokenClaims: false,
  pkce: { required: () => true },
  ttl: { IdToken: config.life, AccessToken: config.life, DeviceCode: config.deviceLife },
  findAccount: (_, id) => claims(id) && { accountId: id, claims: async () => ({ sub: id, ...claims(id) }) },
  extraTokenClaims: (_, token) => claims(token.accountId),
  features: {
    deviceFlow: { enabled: true },
    devInteractions: { enabled: true },
    resourceIndicators: {
      enabled: true,
      useGrantedResource: () => true,
      getResourceServerInfo: (_, resource) => ({ scope: 'openid email profile groups', audience: resource, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } } }),
    },
  },
});

provider.listen(config.port, '127.0.0.1');
