"""The console command ``sasnet``: one module a sub-command, each imported when it is asked for.

``python -m sasnet_ns.commands`` does the same where the command itself is not installed.
"""
