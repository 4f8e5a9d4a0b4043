import { Errno } from '../../nbd/constants.ts';

/** An error of the origin, as the guest sees it: EIO, whatever the origin called it. 0 stays 0. */
export function guestErrno(errno: number): number {
  return errno === 0 ? 0 : Errno.EIO;
}
