"""Integration with systemd: notifications, the watchdog, socket activation, unit files."""
