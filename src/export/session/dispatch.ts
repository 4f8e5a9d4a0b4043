/** What becomes of a request that is in order: the lender lets it in, and disk or lender answers. */
import { Recurring } from '../../log/recurring.ts';
import { Command, CommandFlag, Errno } from '../../nbd/constants.ts';
import type { Client, Export } from '../export.ts';
import { commandName } from './check-request.ts';
import type { ReplyBody } from './replies/reply-body.ts';
import type { Request } from './request.ts';

const failures = new Recurring('error');

/** Of one connection. */
export class Dispatch {
  readonly #export: Export;
  readonly #client: Client;
  readonly #body: ReplyBody;

  /** @param body where answers with data are built */
  constructor(served: Export, client: Client, body: ReplyBody) {
    this.#export = served;
    this.#client = client;
    this.#body = body;
  }

  /**
   * Whatever throws is our fault, not the client's: its request fails, so that a write does not stay counted
   * for ever. @param payload valid only during the call
   */
  attempt(request: Request, payload: Buffer): void {
    try {
      this.#submit(request, payload);
    } catch (error) {
      const what = commandName(request.type);
      failures.met(`${what} failed: ${String((error as Error).stack)}`);
      this.#body.abandon(request);
      request.complete(Errno.EIO);
    }
  }

  #submit(request: Request, payload: Buffer): void {
    const { disk, lender, digests } = this.#export;
    const { type, offset, length } = request;
    const fua = (request.flags & CommandFlag.FUA) !== 0;
    switch (type) {
      case Command.READ:
        if (this.#admitted(request, 'read')) disk.read(this.#body.space(request), offset, request);
        break;
      case Command.WRITE:
        if (this.#admitted(request, 'write')) disk.write(payload, offset, fua, request);
        break;
      case Command.FLUSH:
        if (this.#admitted(request, 'flush')) disk.flush(request);
        break;
      case Command.TRIM:
        if (this.#admitted(request, 'write')) disk.trim(offset, length, fua, request);
        break;
      case Command.WRITE_ZEROES: {
        const noHole = (request.flags & CommandFlag.NO_HOLE) !== 0;
        const fast = (request.flags & CommandFlag.FAST_ZERO) !== 0;
        if (this.#admitted(request, 'write')) disk.zero(offset, length, { fua, noHole, fast }, request);
        break;
      }
      case Command.CACHE:
        if (this.#admitted(request, 'read')) disk.cache(offset, length, request);
        break;
      case Command.BLOCK_STATUS: {
        const one = (request.flags & CommandFlag.REQ_ONE) !== 0;
        if (this.#admitted(request, 'read')) disk.extents(offset, length, one, request);
        break;
      }
      case Command.XNBD_TAKEOVER:
        this.#whenDone(request, lender.takeover(this.#client));
        break;
      case Command.XNBD_GIVE_BACK:
        this.#whenDone(request, lender.giveBack(this.#client));
        break;
      case Command.XNBD_RETIRE:
        this.#whenDone(request, lender.retire(this.#client));
        break;
      case Command.XNBD_WAIT_GONE:
        lender.waitGone(this.#client, request);
        break;
      case Command.XNBD_HASH:
        if (this.#admitted(request, 'read')) digests.digest(this.#body.space(request), request, this.#client);
        break;
      default:
        lender.heard(this.#client);
        request.complete(type === Command.XNBD_PING ? 0 : Errno.EINVAL);
    }
  }

  #admitted(request: Request, access: 'read' | 'write' | 'flush'): boolean {
    const errno = this.#export.lender.refuses(access, this.#client);
    if (errno !== 0) {
      request.complete(errno);
      return false;
    }
    if (access === 'write') {
      request.counted = true;
      this.#export.writeBegan();
    }
    return true;
  }

  #whenDone(request: Request, result: Promise<number>): void {
    result.then(
      (errno) => request.complete(errno),
      (error: unknown) => {
        failures.met(`${commandName(request.type)} failed: ${String(error)}`);
        request.complete(Errno.EIO);
      },
    );
  }
}
