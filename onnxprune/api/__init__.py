"""The public Python interface: functions, and the results they return. Other packages may change at any time."""
