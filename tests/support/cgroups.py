"""Folders that look like /proc and /sys of a machine with control groups."""


def write_groups(root, own, files):
    """Write the groups of a process.

    Args:
        root: Stands for `/`.
        own: Content of /proc/self/cgroup.
        files: Text by path below /sys/fs/cgroup.
    """
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(own)
    for name, text in files.items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root
