/**
 * A gateway is often started before its host has certificates, or knows whom to let in. It waits for them,
 * says once what it waits for, and comes up when they are there. A program that ends instead is started
 * again and again by the service manager, until that gives it up for good.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Config } from '../config/config.ts';
import { log } from '../log/log.ts';
import { serverParty } from '../pki/host-party.ts';
import type { TlsParty } from '../pki/tls.ts';

const LOOK_MS = 2000;

/**
 * @param load reads the configuration, anew with each look: what is missing may be a line in it
 * @returns the configuration with which it may begin, and its party; null where TLS is off
 */
export async function awaitCertificates(
  load: () => Promise<Config>,
  lookMs = LOOK_MS,
): Promise<{ config: Config; tls: TlsParty | null }> {
  let told = '';
  for (;;) {
    try {
      const config = await load();
      return {
        config,
        tls:
          config.gateway.tls === 'off' ? null : await serverParty(config.tls, process.env.RUNTIME_DIRECTORY),
      };
    } catch (error) {
      const { message } = error as Error;
      if (message !== told)
        log.warning(`nobody is let in yet: ${message}; it is looked for until it is there`, {
          id: 'gateway-waits',
        });
      told = message;
    }
    await sleep(lookMs);
  }
}
