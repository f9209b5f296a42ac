/* notify: tells the service manager (systemd) how we are, when it started us.
 *
 * source: sd_notify(3), the protocol: a datagram of NAME=value lines to $NOTIFY_SOCKET. */
#pragma once

/* Nothing happens without a manager. */
void notify_send(const char *text);
