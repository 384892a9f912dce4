#pragma once
#include <sqlite3.h>
#include <stdlib.h>

// sqlite3_db_config is variadic, which Swift cannot call.
static inline void sluice_no_checkpoint_on_close(sqlite3 *database) {
  sqlite3_db_config(database, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, (int *)0);
}

/// Makes the disk have of a write-ahead log what the kernel shows of it, before SQLite opens the file. After an fsync that
/// failed, pages that never reached the disk count as clean, and a later fsync says that all is well
/// (lwn.net/Articles/752063): so the log is written once more over itself.
///
/// A checkpoint alone would make the file newer than what the disk has of the log; a power cut could bring that log back,
/// since SQLite does not fsync a log's end, and its older pages over the newer ones.
///
/// Nobody else may have the log open. Returns a result code.
static inline int sluice_write_log_again(const char *way, const char *path) {
  sqlite3_vfs *vfs = sqlite3_vfs_find(way);
  if (!vfs) return SQLITE_NOTFOUND;
  int is_there = 0;
  int code = vfs->xAccess(vfs, path, SQLITE_ACCESS_EXISTS, &is_there);
  if (code != SQLITE_OK || !is_there) return code;
  // SQLite's own way to a file takes less than 128 KiB at once (seekAndWriteFd).
  enum { most = 64 * 1024 };
  sqlite3_file *log = calloc(1, vfs->szOsFile);
  void *piece = malloc(most);
  int opened = 0;
  code = log && piece ? vfs->xOpen(vfs, path, log, SQLITE_OPEN_READWRITE | SQLITE_OPEN_WAL, &opened) : SQLITE_NOMEM;
  if (code == SQLITE_OK && (opened & SQLITE_OPEN_READONLY)) code = SQLITE_READONLY;
  sqlite3_int64 size = 0;
  if (code == SQLITE_OK) code = log->pMethods->xFileSize(log, &size);
  for (sqlite3_int64 offset = 0; code == SQLITE_OK && offset < size; offset += most) {
    int count = size - offset < most ? (int)(size - offset) : most;
    code = log->pMethods->xRead(log, piece, count, offset);
    if (code == SQLITE_OK) code = log->pMethods->xWrite(log, piece, count, offset);
  }
  if (code == SQLITE_OK && size > 0) code = log->pMethods->xSync(log, SQLITE_SYNC_NORMAL);
  if (log && log->pMethods) log->pMethods->xClose(log);
  free(log);
  free(piece);
  return code;
}
