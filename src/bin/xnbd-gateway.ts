/** `xnbd-gateway [--config FILE]`: the one port of a host that faces the network. */
import { parseArgs } from 'node:util';
import packageJson from '../../package.json' with { type: 'json' };
import { formatAddress } from '../config/address.ts';
import { loadConfig } from '../config/config.ts';
import { awaitCertificates } from '../gateway/await-certificates.ts';
import { startGateway } from '../gateway/gateway.ts';
import { listenPlain } from '../gateway/transport.ts';
import { log } from '../log/log.ts';
import { startResidentLog } from '../log/resident.ts';
import { nameProcess } from '../system/process-name.ts';
import { exitNow } from '../system/syscalls.ts';

/** systemd gives 90 seconds; links of relocations that break come back by themselves. */
const GRACE_MS = 5000;

function usage(reason: string): never {
  process.stderr.write(`xnbd-gateway: ${reason}\nusage: xnbd-gateway [--config FILE]\n`);
  process.exit(2);
}

function readArguments(): string | undefined {
  try {
    const { config, version } = parseArgs({
      options: { config: { type: 'string' }, version: { type: 'boolean' } },
    }).values;
    if (version === true) {
      process.stdout.write(`${packageJson.version}\n`);
      process.exit(0);
    }
    return config;
  } catch (error) {
    return usage((error as Error).message);
  }
}

nameProcess('xnbd-gateway');
const configPath = readArguments();
try {
  const { level } = (await loadConfig(configPath)).log;
  const endLog = startResidentLog({ identifier: 'xnbd-gateway', level });
  const { config, tls } = await awaitCertificates(() => loadConfig(configPath));
  const gateway = await startGateway({
    run: config.paths.run,
    records: config.paths.exports,
    tls,
    listen: (visit) => listenPlain(config.gateway.listen, visit),
  });
  const end = (): void => {
    void gateway.close(GRACE_MS).then(() => {
      log.info('ended');
      endLog();
      exitNow(0);
    });
  };
  process.once('SIGTERM', end);
  process.once('SIGINT', end);
  log.info(
    `listening on ${formatAddress(gateway.address)}, exports of ${config.paths.run}, ${tls === null ? 'in the clear' : 'TLS'}`,
    { id: 'gateway-listens' },
  );
} catch (error) {
  process.stderr.write(`xnbd-gateway: ${(error as Error).message}\n`);
  process.exit(1);
}
