"""Jobs, schedules and sensors, and what they decide by."""
