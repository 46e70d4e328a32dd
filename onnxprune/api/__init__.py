"""The Python interface: functions and results that users hold. Everything else may change."""
