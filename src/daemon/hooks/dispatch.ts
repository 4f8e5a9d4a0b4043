/**
 * What each libvirt hook means here. The XML on stdin is all that a hook may know of its domain: libvirt
 * holds the domain's lock while it waits for us, so nothing on this path calls libvirt.
 *
 * What begins something may fail, and then the administrator reads our line in virsh. What ends something
 * succeeds, and `reconnect` most of all, because libvirt kills the running guest when it fails.
 */
import { type DomainInfo, readDomain } from '../../libvirt/domain-xml.ts';
import { log } from '../../log/log.ts';
import { arrive } from '../disks/arrival.ts';
import type { Host } from '../host.ts';
import { usingDomain } from '../registry/domains.ts';
import { release, stopped } from './ends.ts';
import { answerMissedEnds } from './missed-ends.ts';
import { prepare } from './prepare.ts';
import type { HookAnswer, HookCall } from './server.ts';

const done: HookAnswer = { exit: 0, stdout: '', stderr: '' };

type Operation = (host: Host, domain: DomainInfo, call: HookCall, signal: AbortSignal) => Promise<void>;

const begins: Readonly<Record<string, Operation>> = {
  migrate: async (host, domain, _call, signal) => {
    await arrive(host, domain, signal);
  },
  prepare,
};

const others: Readonly<Record<string, Operation>> = {
  started,
  reconnect,
  stopped: (host, domain) => stopped(host, usingDomain(domain)),
  release: (host, domain, { extra }) => release(host, usingDomain(domain), extra),
};

/**
 * Answers one hook, and before it what was missed. @throws Error with a line for the administrator, from
 * `migrate` and `prepare` only.
 */
export async function answerHook(host: Host, call: HookCall, signal: AbortSignal): Promise<HookAnswer> {
  await answerMissed(host);
  return await answerOne(host, call, signal);
}

/** Answers the ends that came while no daemon ran. */
export async function answerMissed(host: Host): Promise<void> {
  const never = new AbortController();
  await host.queue.run('missed ends', () =>
    answerMissedEnds(host.config, (call) => answerOne(host, call, never.signal)),
  );
}

async function answerOne(host: Host, call: HookCall, signal: AbortSignal): Promise<HookAnswer> {
  const begin = begins[call.op];
  const other = others[call.op];
  if (begin === undefined && other === undefined) return done;
  try {
    const domain = readDomain(call.xml, host.config.paths.run);
    if (domain.disks.length === 0) return done;
    log.debug(`hook ${call.op} ${call.subop} of ${domain.name}`, {
      domain: domain.name,
      domainUuid: domain.uuid,
    });
    await host.queue.run(domain.uuid, async () => {
      // A hook that reports an end does its work however late its turn comes.
      if (begin !== undefined) signal.throwIfAborted();
      await (begin ?? other!)(host, domain, call, signal);
    });
  } catch (error) {
    if (begin !== undefined) throw error;
    log.warning(`hook ${call.op} of ${call.guest}: ${(error as Error).message}`, { domain: call.guest });
  }
  return done;
}

/** The guest runs (or is about to arrive: then nothing is written until it has). */
async function started(host: Host, domain: DomainInfo): Promise<void> {
  await host.domains.use(usingDomain(domain));
  host.writeOriginsSoon(domain.uuid);
}

/**
 * libvirtd was restarted under a running guest: the guest's exports should run, and are started beside this
 * hook if they do not.
 */
async function reconnect(host: Host, domain: DomainInfo): Promise<void> {
  await host.domains.use(usingDomain(domain));
  for (const { export: name } of domain.disks) {
    host.exports.ensure(name).catch((error: unknown) => {
      log.error(
        `export ${name} of the running guest ${domain.name} is not there: ${(error as Error).message}`,
        { id: 'disk-missing', export: name },
      );
    });
  }
}
