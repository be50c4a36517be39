"""Services of systemd: notifications, the watchdog, socket activation, unit files."""
