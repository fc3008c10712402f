"""What gateway, launcher and simulation servers share: settings, messages, topics, the bus, the lifecycle, errors."""
