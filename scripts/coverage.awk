# Sums `llvm-cov report` by room and judges it: Core at least 90% of lines, all at least 80%.
# The columns after a file's name are regions, missed, cover, functions, missed, executed, lines, missed, cover, …
$1 ~ /\.swift$/ {
    path = $1
    sub(root, "", path)
    sub(/^.*Sources\//, "", path)
    split(path, parts, "/")
    room = parts[1] "/" parts[2]
    lines[room] += $8
    missed[room] += $9
    sum[parts[1]] += $8
    sum_missed[parts[1]] += $9
    all += $8
    all_missed += $9
}
function percent(count, miss) { return count == 0 ? 0 : 100 * (count - miss) / count }
function show(name, count, miss) { printf "  %-28s %7d lines %7.1f%%\n", name, count, percent(count, miss) }
END {
    print "Coverage of lines"
    count = 0
    for (room in lines) names[++count] = room
    for (i = 2; i <= count; i++) {
        for (j = i; j > 1 && names[j - 1] > names[j]; j--) {
            swap = names[j]; names[j] = names[j - 1]; names[j - 1] = swap
        }
    }
    for (i = 1; i <= count; i++) show(names[i], lines[names[i]], missed[names[i]])
    show("Core", sum["Core"], sum_missed["Core"])
    show("all", all, all_missed)
    failed = 0
    if (percent(sum["Core"], sum_missed["Core"]) < 90) { print "error: Core is below 90%"; failed = 1 }
    if (percent(all, all_missed) < 80) { print "error: all is below 80%"; failed = 1 }
    exit failed
}
