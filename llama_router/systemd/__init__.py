"""What systemd offers a service: notifications, a watchdog, sockets that it opened."""
